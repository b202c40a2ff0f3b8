/* What the build compiles to see whether the CUDA compiler works. */
__global__ void trial()
{
}
