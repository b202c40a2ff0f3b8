/* Which of two algorithms is the faster one. */
#include "ocl_program.h"

bool ocl_prefers_winograd(demist_program *p, const demist_node *conv)
{
    (void)p;
    return conv->shape[2] >= 6 && conv->shape[3] >= 6;
}
