extension Manifest {
  /// Code for one kind of GPU.
  public struct GPU: Codable, Hashable, Sendable {
    /// The kind: `sm_90a`.
    public var target: String
    /// Bytes of its PTX; nil for AMD's.
    public var ptxBytes: Int?
    /// Bytes of machine code; nil where none was made of the PTX.
    public var codeBytes: Int?
    /// Its kernels, in the order in which a call launches them.
    public var kernels: [Kernel]

    /// A function of the image.
    public struct Kernel: Codable, Hashable, Sendable {
      /// The function's name.
      public var name: String
      /// The entry that launches it.
      public var entry: String
      /// The operations that it computes, as those of `Manifest.Kernel`.
      public var computes: String
      /// Rows that a block takes.
      public var rows: Int
      /// Threads of a block.
      public var threads: Int
      /// Bytes of shared memory that a block is given.
      public var sharedBytes: Int
      /// Registers of a thread; nil where no assembler told.
      public var registers: Int?
      /// Bytes of a thread that found no register, written and read, of AMD's those of its scratch memory; nil where no assembler
      /// told.
      public var spilledBytes: Int?

      /// A function of this name.
      public init(
        name: String, entry: String, computes: String, rows: Int, threads: Int, sharedBytes: Int, registers: Int?,
        spilledBytes: Int?
      ) {
        (self.name, self.entry, self.computes) = (name, entry, computes)
        (self.rows, self.threads, self.sharedBytes) = (rows, threads, sharedBytes)
        (self.registers, self.spilledBytes) = (registers, spilledBytes)
      }
    }

    /// Code for this kind.
    public init(target: String, ptxBytes: Int?, codeBytes: Int?, kernels: [Kernel]) {
      (self.target, self.ptxBytes, self.codeBytes, self.kernels) = (target, ptxBytes, codeBytes, kernels)
    }
  }
}
