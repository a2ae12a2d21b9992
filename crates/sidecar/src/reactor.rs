//! The reactors: who appears and disappears, and what is asked for them. What carries packets belongs in
//! [`crate::plane`].

pub mod lab;
