//! The stable ABI. (stub)
