/// How far a step has come that may take long.
public struct Progress: Hashable, Sendable {
  /// What is being done: "packing weights".
  public var phrase: String
  /// Bytes that are done.
  public var done: Int
  /// Bytes that there are.
  public var total: Int
  /// Since the step began.
  public var seconds: Double

  /// Progress as given.
  public init(phrase: String, done: Int, total: Int, seconds: Double) {
    (self.phrase, self.done, self.total, self.seconds) = (phrase, done, total, seconds)
  }

  private static let barWidth = 24

  /// One line for a terminal: a bar, the share, bytes a second and the time that is left at this rate.
  public var line: String {
    let share = total > 0 ? min(max(Double(done) / Double(total), 0), 1) : 1
    let filled = Int(share * Double(Self.barWidth))
    let bar = String(repeating: "#", count: filled) + String(repeating: ".", count: Self.barWidth - filled)
    var text = "\(phrase) [\(bar)] \(Int(share * 100)) % of \(Quantity.bytes(Double(total)))"
    guard done > 0, seconds > 0 else { return text }
    let rate = Double(done) / seconds
    text += ", \(Quantity.bytes(rate))/s, \(Quantity.fixed(Double(max(total - done, 0)) / rate, decimals: 0)) s left"
    return text
  }
}
