//! The suite: one program, a module per subject.

mod load;
