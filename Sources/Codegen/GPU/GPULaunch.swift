import TileIR

/// How a kernel of a program is launched on a GPU.
public struct GPULaunch: Hashable, Sendable {
  /// What a kernel is given, in the order of its parameters, 8 bytes each but scalars, which have 4.
  public enum Parameter: Hashable, Sendable {
    /// The address of a buffer in the memory of the card, at a multiple of 16 bytes.
    case buffer(BufferID)
    /// An extent of the batch, int64.
    case extent(String)
    /// A number, fp32.
    case scalar(ScalarID)
  }

  /// The function in the image.
  public var symbol: String
  /// Its place among the program's kernels.
  public var kernel: Int
  /// Threads of a block.
  public var threads: Int
  /// Bytes of shared memory that a block is given at launch.
  public var sharedBytes: Int
  /// Rows that a block takes. Blocks of the kernel's domain have a multiple of them.
  public var rows: Int
  /// What the function is given.
  public var parameters: [Parameter]

  /// Blocks that a block of the kernel's domain is cut into.
  public func pieces(of kernel: Kernel) -> Int { (kernel.domain.block + rows - 1) / rows }
}

/// Why a program has no code for a GPU.
public struct GPUError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The kernel and what in it cannot be emitted.
  public var message: String
  /// What the user can do; nil where nothing is known.
  public var hint: String?
  /// The message after `gpu: `, and on a line of its own the hint.
  public var description: String { "gpu: \(message)" + (hint.map { "\nhint: \($0)" } ?? "") }
}
