//! Shared shapes.
