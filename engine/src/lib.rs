//! joulewise-engine
