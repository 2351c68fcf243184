import TensorIR

extension Program {
  /// Throws the first rule that the program breaks.
  public func verify() throws(TileIRError) { if let error = verificationErrors().first { throw error } }
  func verificationErrors(_ locations: ProgramLocations? = nil) -> [TileIRError] { [] }
}
