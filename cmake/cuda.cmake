# The CUDA floor: csrc/cuda/*.cu, by nvcc into the module _cuda, or by the C++ compiler against the emulator of
# csrc/simt into the modules _emulated and _emulated_check (test builds only; they are not installed).
set(MMKERNELS_CUDA "AUTO" CACHE STRING "AUTO: build the CUDA floor if nvcc is found; ON: fail without it; OFF; PYPI: nvcc from wheels")
set(MMK_CUDA_ARCHITECTURES "" CACHE STRING "Architectures of the CUDA floor; empty: the GPUs of this machine, and PTX of 80")

file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/cuda/*.cu)

if(MMK_EMULATOR)
  list(REMOVE_ITEM cuda_sources ${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/runtime.cu)
  set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX)
  file(GLOB simt_sources CONFIGURE_DEPENDS csrc/simt/*.cpp)
  # The emulator and the boundary are never instrumented; the kernels of _emulated_check are: the sanitizer's hooks,
  # called before every access, are the emulator's own, and no sanitizer library is linked.
  add_library(simt_runtime OBJECT ${simt_sources} csrc/cuda/context.cpp csrc/core/failure.cpp
              ${family_bindings} csrc/bind/emulator.cpp)
  target_include_directories(simt_runtime PRIVATE ${CMAKE_BINARY_DIR}/generated)
  target_compile_definitions(simt_runtime PRIVATE MMK_FLOOR=cuda MMK_HOPPER=1)
  target_link_libraries(simt_runtime PRIVATE mmk_flags pybind11::module)
  set(check_flags -DMMK_PLANT -fsanitize=thread -fsanitize=bounds,alignment --param tsan-instrument-func-entry-exit=0)
  foreach(module _emulated _emulated_check)
    add_library(kernels${module} OBJECT ${cuda_sources})
    target_compile_definitions(kernels${module} PRIVATE MMK_ISA=cuda MMK_DEVICE)
    target_compile_options(kernels${module} PRIVATE -O2 -g1 -march=x86-64-v3 -Wno-maybe-uninitialized $<$<STREQUAL:${module},_emulated_check>:${check_flags}>)
    target_link_libraries(kernels${module} PRIVATE mmk_flags)
    mmk_module(${module} cuda csrc/bind/device.cpp $<TARGET_OBJECTS:kernels${module}> $<TARGET_OBJECTS:simt_runtime>)
    target_compile_definitions(${module} PRIVATE MMK_EMULATOR=1)
    target_link_libraries(${module} PRIVATE ${CMAKE_DL_LIBS})
  endforeach()
  return()
endif()

string(TOUPPER "${MMKERNELS_CUDA}" cuda_wanted)
if(cuda_wanted STREQUAL "OFF")
  message(STATUS "mmkernels: no CUDA floor (MMKERNELS_CUDA=off)")
  return()
endif()
if(cuda_wanted STREQUAL "PYPI")
  # The wheels unpack into one tree, nvidia/cu13, whose libraries lie in lib where nvcc 13.0 looks in lib64.
  execute_process(COMMAND ${Python_EXECUTABLE} -c
                  "import nvidia, pathlib; print(next(p for r in nvidia.__path__ if (p := pathlib.Path(r) / 'cu13').exists()))"
                  OUTPUT_VARIABLE cuda_root OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  set(CMAKE_CUDA_COMPILER ${cuda_root}/bin/nvcc)
  string(APPEND CMAKE_CUDA_FLAGS " -L${cuda_root}/lib")
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(cuda_wanted STREQUAL "AUTO")
    message(STATUS "mmkernels: no CUDA floor (nvcc was not found)")
    return()
  endif()
  message(FATAL_ERROR "MMKERNELS_CUDA is ${MMKERNELS_CUDA}, but nvcc was not found")
endif()

# Said to nvcc in its own words: CMake 3.25 knows neither C++20 of this compiler nor architectures such as 90a.
function(mmk_codes result)
  set(codes "")
  foreach(architecture IN LISTS ARGN)
    string(REGEX REPLACE "-(real|virtual)$" "" number ${architecture})
    if(architecture MATCHES "-virtual$")
      list(APPEND codes --generate-code=arch=compute_${number},code=[compute_${number}])
    elseif(architecture MATCHES "-real$")
      list(APPEND codes --generate-code=arch=compute_${number},code=[sm_${number}])
    else()
      list(APPEND codes --generate-code=arch=compute_${number},code=[compute_${number},sm_${number}])
    endif()
  endforeach()
  set(${result} ${codes} PARENT_SCOPE)
endfunction()

# Without a list: the GPUs of this machine, if any, and the PTX of 80, which the driver of every later one can compile at
# first use. Code for sm_80 beside it would take a sixth of the whole install, and serve few.
set(architectures ${MMK_CUDA_ARCHITECTURES})
if(NOT architectures)
  set(architectures 80-virtual)
  find_program(nvidia_smi nvidia-smi)
  if(nvidia_smi)
    execute_process(COMMAND ${nvidia_smi} --query-gpu=compute_cap --format=csv,noheader
                    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-code OUTPUT_VARIABLE known)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" found "${found}")
    foreach(capability IN LISTS found)
      string(REPLACE "." "" number ${capability})
      if(number GREATER_EQUAL 80 AND known MATCHES "sm_${number}\n")
        list(APPEND architectures ${number}-real)
      endif()
    endforeach()
    list(REMOVE_DUPLICATES architectures)
    list(TRANSFORM architectures REPLACE "^90-real$" "90a-real")
  endif()
endif()
message(STATUS "mmkernels: CUDA floor for ${architectures}")
mmk_codes(cuda_codes ${architectures})
set(CMAKE_CUDA_ARCHITECTURES OFF)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA_STANDARD 20)

mmk_module(_cuda cuda ${family_bindings} csrc/bind/device.cpp csrc/cuda/context.cpp csrc/core/failure.cpp ${cuda_sources})
# Elsewhere the kernels of <family>.sm90.cu are empty, and Context::hopper() refuses to choose them.
string(REGEX MATCH "(^|;)90a" hopper_built "${architectures}")
target_compile_definitions(_cuda PRIVATE MMK_EMULATOR=0 MMK_HOPPER=$<BOOL:${hopper_built}>
                           $<$<COMPILE_LANGUAGE:CUDA>:MMK_ISA=cuda MMK_DEVICE>)
# A release holds six codes of every kernel: CUDA 13's better compression makes it a quarter smaller, and an install a
# tenth longer. Its runtime asks for a driver that knows it anyway.
set(cuda_compression -Xfatbin=-compress-all)
if(MMK_CUDA_ARCHITECTURES AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  set(cuda_compression --compress-mode=size)
endif()
# The arithmetic allows no fused operation that is not asked for, no flush of subnormals, no approximate instruction.
target_compile_options(_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:${cuda_codes} --fmad=false --expt-relaxed-constexpr ${cuda_compression}
                       -diag-suppress=177,186>)
install(TARGETS _cuda LIBRARY DESTINATION mmkernels)
