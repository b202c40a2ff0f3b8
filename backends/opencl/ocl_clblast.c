/* Matrix products by CLBlast, where the build found it. It compiles its kernels on first use, keeps
 * them in a cache of the process, and takes memory of its own where it has to pad matrices. */
#include "ocl_device.h"

#ifdef HAVE_CLBLAST
#include <clblast_c.h>

bool ocl_has_clblast(const demist_device *device)
{
    (void)device;
    return true;
}

demist_status ocl_clblast_run(demist_device *device, cl_command_queue queue,
                              const struct ocl_gemm *g)
{
    device->used_clblast = true;
    const CLBlastStatusCode status =
        g->n == 1 ? CLBlastSgemm(CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeNo,
                                 g->rows, g->columns, g->depth, 1, g->a, g->a_at, g->a_ld, g->b,
                                 g->b_at, g->b_ld, 0, g->c, g->c_at, g->c_ld, &queue, NULL)
                  : CLBlastSgemmStridedBatched(CLBlastLayoutRowMajor, CLBlastTransposeNo,
                                               CLBlastTransposeNo, g->rows, g->columns, g->depth, 1,
                                               g->a, g->a_at, g->a_ld, g->a_step, g->b, g->b_at,
                                               g->b_ld, g->b_step, 0, g->c, g->c_at, g->c_ld,
                                               g->c_step, g->n, &queue, NULL);
    if (status == CLBlastSuccess)
        return DEMIST_OK;
    if ((int)status <= -1000) /* CLBlast's own */
        return device->host->fail(device->host, DEMIST_DEVICE,
                                  "%s: CLBlast failed with its status %d: say clblast = off",
                                  device->info->name, (int)status);
    return ocl_fail(device, "CLBlast", (cl_int)status);
}

/* Its cache is of the process and holds contexts; destructors at exit would find the driver gone.
 * Other devices build their kernels again when they need them. */
void ocl_clblast_finish(demist_device *device)
{
    if (device->used_clblast)
        CLBlastClearCache();
}

#else

bool ocl_has_clblast(const demist_device *device)
{
    (void)device;
    return false;
}

demist_status ocl_clblast_run(demist_device *device, cl_command_queue queue,
                              const struct ocl_gemm *gemm)
{
    (void)queue;
    (void)gemm;
    return device->host->fail(device->host, DEMIST_INTERNAL, "this build has no CLBlast");
}

void ocl_clblast_finish(demist_device *device)
{
    (void)device;
}

#endif
