//! joulewise-kernels
