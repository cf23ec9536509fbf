//! joulewise-models
