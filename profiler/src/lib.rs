//! joulewise-profiler
