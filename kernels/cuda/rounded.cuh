// Rows as codes of eight bits, in front of the files that leave them for products.

// The value of e4m3 as a code.
__device__ __forceinline__ u32 code_of(float value) {
    u32 bits = __float_as_uint(value), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
    if (magnitude == 0)
        return sign;
    int exponent = (int)(magnitude >> 23) - 127;
    if (exponent < -6)
        return sign | (u32)(__uint_as_float(magnitude) * 512.0f);
    return sign | (u32)(exponent + 7) << 3 | (magnitude >> 20 & 7);
}

// Eight neighbours, rounded before, at a multiple of eight bytes.
__device__ __forceinline__ void store_codes(const float *v, int rounding, u8 *to) {
    u32 words[2] = {0, 0};
#pragma unroll
    for (int e = 0; e < 8; e++)
        words[e / 4] |= (rounding == TO_E4M3 ? code_of(v[e]) : (u32)(int)v[e] & 255) << e % 4 * 8;
    *(uint2 *)to = make_uint2(words[0], words[1]);
}
