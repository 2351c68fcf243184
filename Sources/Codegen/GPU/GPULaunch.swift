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
    /// The address of a word in the memory of the card that is 0 when the kernel begins, and no other kernel's.
    case counter
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
  /// Blocks of a cluster, which run at the same time; 1 where blocks know nothing of each other. The image says it too, so that
  /// nothing but the number of blocks has to follow from it; for more than 8 the function needs the driver's attribute
  /// `NON_PORTABLE_CLUSTER_SIZE_ALLOWED`.
  public var cluster: Int
  /// Whether a block takes one of the domain's after the other, so that there need be no more of them than run at once.
  public var isPersistent: Bool
  /// Parts that columns can be divided into at most, each a block of its own in the grid's second dimension: 1 where they cannot.
  /// Results do not depend on how many there are.
  public var columnParts: Int
  /// What the function is given.
  public var parameters: [Parameter]

  /// Multiprocessors of an H100.
  static let multiprocessors = 132

  /// Parts of the columns that fill an H100 where the first dimension has so many blocks.
  public func columnParts(for blocks: Int) -> Int { min(columnParts, max(1, Self.multiprocessors / max(1, blocks))) }

  /// Blocks of a launch of clusters at least, where there is less to do than that: as many as an H100 runs at once in clusters of 16,
  /// whose parts of 16 or 18 multiprocessors hold 14 such clusters. Results do not depend on how many are launched.
  public static let clusteredBlocks = 224

  /// Blocks of a kernel that has a multiprocessor for each, as many as an H100 runs at once: one of its parts has too few
  /// multiprocessors for two clusters of 8.
  var residentBlocks: Int { cluster == 8 ? 120 : Self.multiprocessors / cluster * cluster }

  /// Blocks to launch for so many of the domain's, all parts and pieces counted: none for none, and whole clusters.
  public func blocks(for count: Int) -> Int {
    if isPersistent { return cluster == 1 || count == 0 ? min(count, residentBlocks) : residentBlocks }
    if cluster == 1 || count == 0 { return count }
    return (max(count, Self.clusteredBlocks) + cluster - 1) / cluster * cluster
  }

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
