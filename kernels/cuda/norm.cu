// LayerNorm and RMSNorm, one block per row; the result in f32, in 16 bits for a matrix product, or both. The row is read again from the first-level cache for the second pass: the
// variance is that of centred values, which cancels nothing.

template <typename T>
__device__ void normalise(const float *x, int stride, int k, int is_layer, const float *weight, const float *bias,
                          float eps, float *y, T *y16) {
    __shared__ float scratch[32];
    let_next_start();
    wait_for_previous();
    const float *row = x + (u64)blockIdx.x * stride;
    float mean = 0;
    if (is_layer) {
        float sum = 0;
        for (int i = threadIdx.x; i < k; i += blockDim.x)
            sum += row[i];
        mean = block_sum(sum, scratch) / k;
    }
    float squares = 0;
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        float centred = row[i] - mean;
        squares += centred * centred;
    }
    float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / k + eps);
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        float value = (row[i] - mean) * inverse * weight[i] + (bias ? bias[i] : 0.0f);
        if (y)
            y[(u64)blockIdx.x * k + i] = value;
        if (y16)
            y16[(u64)blockIdx.x * k + i] = from_f32<T>(value);
    }
}
#define NORM(NAME, T)                                                                                                  \
    extern "C" __global__ void NAME(const float *x, int stride, int k, int is_layer, const float *weight,              \
                                    const float *bias, float eps, float *y, T *y16) {                                  \
        normalise(x, stride, k, is_layer, weight, bias, eps, y, y16);                                                  \
    }
NORM(norm_f16, f16)
NORM(norm_bf16, bf16)
