//! What a profile looks like to others: JSON for programs, CSV for tables, HTML for people, a trace for Perfetto.

pub mod json;
