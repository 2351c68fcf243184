import LLVMKit

/// A function of a GPU's driver that launch stubs call: of the CUDA driver API, or of HIP, which has the same ones but for contexts.
enum GPUDriverFunction: CaseIterable {
  case initialize
  /// NVIDIA's: a thread's calls are for the context that is current there; that of a card has to be made.
  case currentContext, setContext, firstDevice, retainContext
  /// AMD's: a thread's calls are for the device that is current there; the first one is from the start.
  case currentDevice, setDevice
  case loadModule, unloadModule, function
  /// NVIDIA's, for more than a kernel may have unasked.
  case setAttribute
  case allocate, free, copy, copyAsync, fill, launch

  /// Its name; nil where the vendor's driver has none such.
  func name(of vendor: GPUTarget.Vendor) -> String? {
    let names: (nvidia: String?, amd: String?) =
      switch self {
      case .initialize: ("cuInit", "hipInit")
      case .currentContext: ("cuCtxGetCurrent", nil)
      case .setContext: ("cuCtxSetCurrent", nil)
      case .firstDevice: ("cuDeviceGet", nil)
      case .retainContext: ("cuDevicePrimaryCtxRetain", nil)
      case .currentDevice: (nil, "hipGetDevice")
      case .setDevice: (nil, "hipSetDevice")
      case .loadModule: ("cuModuleLoadData", "hipModuleLoadData")
      case .unloadModule: ("cuModuleUnload", "hipModuleUnload")
      case .function: ("cuModuleGetFunction", "hipModuleGetFunction")
      case .setAttribute: ("cuFuncSetAttribute", nil)
      case .allocate: ("cuMemAlloc_v2", "hipMalloc")
      case .free: ("cuMemFree_v2", "hipFree")
      case .copy: ("cuMemcpyHtoD_v2", "hipMemcpyHtoD")
      case .copyAsync: ("cuMemcpyHtoDAsync_v2", "hipMemcpyHtoDAsync")
      case .fill: ("cuMemsetD32Async", "hipMemsetD32Async")
      case .launch: ("cuLaunchKernel", "hipModuleLaunchKernel")
      }
    return switch vendor {
    case .nvidia: names.nvidia
    case .amd: names.amd
    }
  }

  /// Its parameters; addresses in the card's memory are numbers.
  func parameters(_ context: Context) -> [IRType] {
    let (i32, i64, p) = (context.i32, context.i64, context.pointer)
    return switch self {
    case .initialize, .setDevice: [i32]
    case .currentContext, .setContext, .currentDevice, .unloadModule: [p]
    case .firstDevice, .retainContext: [p, i32]
    case .loadModule: [p, p]
    case .function: [p, p, p]
    case .setAttribute: [p, i32, i32]
    case .allocate: [p, i64]
    case .free: [i64]
    case .copy: [i64, p, i64]
    case .copyAsync: [i64, p, i64, p]
    case .fill: [i64, i32, i64, p]
    case .launch: [p, i32, i32, i32, i32, i32, i32, i32, p, p, p]
    }
  }

  /// Where its address lies in the state.
  var slot: Int { (Self.allCases.firstIndex(of: self) ?? 0) * 8 }
}
