#include "backends/cuda/context.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "backends/cuda/cublas.h"
#include "base/error.h"

namespace megabyte::cuda {

void fail_cuda(cudaError_t status, const char* operation) {
  cudaGetLastError();  // it is reported here and not by the next launch
  fail("CUDA: {}: {}", operation, cudaGetErrorString(status));
}

void fail_cublas(cublasStatus_t status, const char* operation) {
  fail("cuBLASLt: {}: {}", operation, cublas().status_string(status));
}

std::string why_no_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();  // it is reported here and not by the next launch
    return cudaGetErrorString(status);
  }
  return count > 0 ? "" : "no NVIDIA GPU was found";
}

namespace {

std::atomic<size_t> allocated{0}, peak_allocated{0};  // bytes, of the process

void count_allocation(size_t bytes) {
  const size_t now = allocated += bytes;
  for (size_t peak = peak_allocated; peak < now;)
    if (peak_allocated.compare_exchange_weak(peak, now)) break;
}

}  // namespace

size_t peak_device_memory() { return peak_allocated; }

Buffer allocate_on_device(size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, std::max<size_t>(bytes, 1));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "memory");
    constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
    fail(
        "not enough GPU memory: {:.2f} GiB are needed at once, {:.2f} of {:.2f} GiB are free; use "
        "a smaller batch, context or model, or activation checkpointing",
        static_cast<double>(bytes) / kGiB, static_cast<double>(free) / kGiB,
        static_cast<double>(total) / kGiB);
  }
  check_cuda(status, "allocate");
  count_allocation(bytes);
  return {static_cast<std::byte*>(data), bytes, [bytes](std::byte* p) {
            cudaFree(p);
            allocated -= bytes;
          }};
}

Context::Context() {
  if (const std::string why = why_no_device(); !why.empty())
    fail("no CUDA device can be used: {}; use --device cpu", why);
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, 0), "device");
  check_cuda(cudaSetDevice(0), "device");
  name_ = properties.name;
  multiprocessors_ = properties.multiProcessorCount;
  multiplies_fp8_ = properties.major * 10 + properties.minor >= 89;
  shared_memory_ = static_cast<int>(properties.sharedMemPerBlockOptin);
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  check_cublas(cublas().create(&cublas_), "create");
  arrivals_ = allocate_on_device(kArrivals * sizeof(unsigned));
  check_cuda(cudaMemsetAsync(arrivals_.data(), 0, arrivals_.bytes(), stream_), "context");
  void* staging = nullptr;
  check_cuda(cudaMallocHost(&staging, kStagings * kStagingBytes), "pinned memory");
  staging_ = static_cast<std::byte*>(staging);
  for (cudaEvent_t& event : staged_)
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
}

Context::~Context() {
  cudaStreamSynchronize(stream_);
  for (cudaEvent_t event : staged_) cudaEventDestroy(event);
  cudaFreeHost(staging_);
  cublas().destroy(cublas_);
  cudaStreamDestroy(stream_);
}

void* Context::scratch(size_t bytes) {
  if (bytes > scratch_->bytes()) {
    check(!recording_, "what is recorded has run before");
    check_cuda(cudaStreamSynchronize(stream_), "scratch memory");  // work may still use the old one
    const size_t size = std::max(bytes, scratch_->bytes() + scratch_->bytes() / 4);
    scratch_.reset();
    scratch_ = std::make_shared<Buffer>(allocate_on_device(size));
  }
  return scratch_->data();
}

namespace {

class Graph final : public Recording {
 public:
  Graph(Context& context, cudaGraphExec_t graph, std::shared_ptr<Buffer> scratch)
      : context_(context), graph_(graph), scratch_(std::move(scratch)) {}
  ~Graph() override {
    cudaStreamSynchronize(context_.stream());
    cudaGraphExecDestroy(graph_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void replay() override { check_cuda(cudaGraphLaunch(graph_, context_.stream()), "replay"); }

 private:
  Context& context_;
  cudaGraphExec_t graph_;
  std::shared_ptr<Buffer> scratch_;
};

}  // namespace

std::unique_ptr<Recording> Context::record(const std::function<void()>& work) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "record");
  recording_ = true;
  try {
    work();
  } catch (...) {
    recording_ = false;
    cudaStreamEndCapture(stream(), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  recording_ = false;
  // stream(): the last work there is what came before the recording.
  check_cuda(cudaStreamEndCapture(stream(), &graph), "record");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "record");
  return std::make_unique<Graph>(*this, executable, scratch_);
}

void Context::upload(void* dst, const void* src, size_t bytes) {
  const cudaStream_t to_device = stream();
  auto* to = static_cast<std::byte*>(dst);
  const auto* from = static_cast<const std::byte*>(src);
  while (bytes > 0) {
    const size_t size = std::min(bytes, kStagingBytes);
    const int turn = std::exchange(next_staging_, (next_staging_ + 1) % kStagings);
    std::byte* piece = staging_ + static_cast<size_t>(turn) * kStagingBytes;
    check_cuda(cudaEventSynchronize(staged_[turn]), "upload");  // the piece's earlier copy is done
    std::memcpy(piece, from, size);
    check_cuda(cudaMemcpyAsync(to, piece, size, cudaMemcpyHostToDevice, to_device), "upload");
    check_cuda(cudaEventRecord(staged_[turn], stream_), "upload");
    from += size;
    to += size;
    bytes -= size;
  }
}

}  // namespace megabyte::cuda
