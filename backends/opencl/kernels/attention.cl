/* Softmax of attention's logits, in place: row l of matrix z; with `causal`, keys behind l weigh
 * nothing. */

#ifdef WIDE
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
attention_softmax(OUT(x), int keys, int stride, int rows, int causal)
{
    const int l = get_global_id(1);
    x += x_at + ((long)get_global_id(2) * rows + l) * stride;
    const int n = causal ? l + 1 : keys;
    float m = x[0];
    int k = 0;
    if (n >= VECTOR) {
        VT most = LOADV(x);
        for (k = VECTOR; k + VECTOR <= n; k += VECTOR)
            most = d_max_v(most, LOADV(x + k));
        float parts[VECTOR];
        STOREV(most, parts);
        for (int i = 0; i < VECTOR; i++)
            m = d_max_s(m, parts[i]);
    }
    for (; k < n; k++)
        m = d_max_s(m, x[k]);
    VT sums = (VT)(0.0f);
    float sum = 0;
    for (k = 0; k + VECTOR <= n; k += VECTOR) {
        const VT e = d_exp_v(LOADV(x + k) - (VT)(m));
        STOREV(e, x + k);
        sums += e;
    }
    for (; k < n; k++) {
        x[k] = d_exp_s(x[k] - m);
        sum += x[k];
    }
    float parts[VECTOR];
    STOREV(sums, parts);
    for (int i = 0; i < VECTOR; i++)
        sum += parts[i];
    const float factor = 1.0f / sum;
    for (k = 0; k < n; k++)
        x[k] *= factor;
    for (; k < keys; k++)
        x[k] = 0;
}

#else
__kernel __attribute__((reqd_work_group_size(64, 1, 1))) void
attention_softmax(OUT(x), int keys, int stride, int rows, int causal)
{
    __local float values[64];
    const int i = get_local_id(0), l = get_global_id(1);
    x += x_at + ((long)get_global_id(2) * rows + l) * stride;
    const int n = causal ? l + 1 : keys;
    float m = x[0], sum = 0;
    for (int k = i; k < n; k += 64)
        m = d_max_s(m, x[k]);
    values[i] = m;
    for (int apart = 32; apart > 0; apart /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (i < apart)
            values[i] = d_max_s(values[i], values[i + apart]);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    m = values[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int k = i; k < n; k += 64) {
        x[k] = d_exp_s(x[k] - m);
        sum += x[k];
    }
    values[i] = sum;
    for (int apart = 32; apart > 0; apart /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (i < apart)
            values[i] += values[i + apart];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    const float factor = 1.0f / values[0];
    for (int k = i; k < n; k += 64)
        x[k] *= factor;
    for (int k = n + i; k < keys; k += 64)
        x[k] = 0;
}
#endif
