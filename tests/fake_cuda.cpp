// A CUDA device for fake tensors on a build of torch without CUDA: autograd asks every device for
// a guard and a stream, and the CUDA hooks whether there is one. Nothing is ever computed on it.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

using c10::Device;
using c10::DeviceType;
using c10::Stream;

const Device the_device(DeviceType::CUDA, 0);

struct Guard : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device exchangeDevice(Device) const override { return the_device; }
  Device getDevice() const override { return the_device; }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, the_device); }
  Stream exchangeStream(Stream) const noexcept override {
    return Stream(Stream::DEFAULT, the_device);
  }
};

}  // namespace

// Torch looks for hooks of this name.
struct CUDAHooks : at::CUDAHooksInterface {
  CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex current_device() const override { return 0; }
};

namespace at {
REGISTER_CUDA_HOOKS(CUDAHooks);
}

extern "C" void add_device() {
  c10::impl::registerDeviceGuard(DeviceType::CUDA, new Guard());
}
