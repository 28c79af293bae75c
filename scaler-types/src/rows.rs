//! Rows in files, for kinds of resource that no cluster keeps. (stub)
