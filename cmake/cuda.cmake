# The CUDA compiler, and how kernels are compiled.
if(NOT MEGABYTE_CUDA_FOUND)
  message(FATAL_ERROR "MEGABYTE_CUDA is ON, but no CUDA toolkit of version 12 or later (nvcc) was found: "
                      "install it, name nvcc with -DMEGABYTE_NVCC=PATH, or leave MEGABYTE_CUDA off")
endif()
if(NOT CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_COMPILER ${MEGABYTE_NVCC})
endif()
set(CMAKE_CUDA_ARCHITECTURES OFF)  # named below
enable_language(CUDA)
# CMake 3.25 does not know the flag for nvcc 13.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")

# Hopper's own instructions, and code that the driver compiles for any other device.
set(MEGABYTE_CUDA_TARGETS "-gencode=arch=compute_90a,code=sm_90a;-gencode=arch=compute_80,code=compute_80"
    CACHE STRING "nvcc's -gencode flags")

# Kernels apart, because nvcc takes other flags. ({fmt} 9 takes it for a compiler without constexpr
# functions.)
function(megabyte_cuda_kernels target)
  target_compile_options(${target} PRIVATE -DFMT_USE_CONSTEXPR=1 ${MEGABYTE_CUDA_TARGETS}
                         -Xcompiler=-Wall,-Wextra,-Werror -Werror=all-warnings)
  set_target_properties(${target} PROPERTIES CUDA_STANDARD 20)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${target} PRIVATE fmt::fmt)
endfunction()
