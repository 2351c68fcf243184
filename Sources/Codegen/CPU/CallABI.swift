import LLVMKit

/// Byte offsets of the structs of include/ultra.h on targets with 8-byte pointers, and its status codes.
enum CallABI {
  static let version = 1
  static let workspaceAlignment = 64
  static let maximumExtent = Int(Int32.max)

  enum Call {
    static let structSize = 0, dimensionCount = 4, dimensions = 8, inputs = 16, outputs = 24, inputCount = 32
    static let outputCount = 36, workspace = 40, workspaceSize = 48, parallel = 56, error = 64, byteCount = 72
  }

  enum Parallel { static let structSize = 0, workers = 4, pool = 8, parallelFor = 16, byteCount = 24 }

  enum Failure {
    static let structSize = 0, status = 4, argument = 8, reserved = 12, position = 16, found = 24, expected = 32
    static let byteCount = 40
  }

  enum Tensor { static let data = 0, count = 8, byteCount = 16 }

  enum Model { static let byteCount = 72 }

  enum GPUCall {
    static let state = 72, workspace = 80, workspaceSize = 88, stream = 96, failure = 104, byteCount = 112
  }

  enum GPUHost { static let structSize = 0, find = 8, context = 16, byteCount = 24 }

  enum GPUFailure {
    static let structSize = 0, status = 4, driverStatus = 8, reserved = 12, function = 16, kernel = 24
    static let byteCount = 32
  }

  enum Status: Int {
    case ok = 0
    case badCall, badArgumentCount, badDimension, badInput, badOutput, badWorkspace, badOffsets, badTargets
    case idOutOfRange, sequenceTooLong, noDriver, driverFailed
  }
}
