/// Numbers as people read them in reports: three or four digits and a unit.
public enum Quantity {
  /// A number of bytes: "512 B", "61.2 MB". Powers of 1000, as in file listings and memory bandwidths.
  public static func bytes(_ count: Double) -> String { scaled(count, units: ["B", "kB", "MB", "GB", "TB"]) }

  /// A time: "8.2 us", "1.84 ms", "3.1 s".
  public static func seconds(_ seconds: Double) -> String {
    seconds >= 1 ? "\(digits(seconds)) s" : scaled(seconds * 1e9, units: ["ns", "us", "ms", "s"])
  }

  /// A number with as many decimals as make three digits: "1234", "12.3", "0.012".
  public static func digits(_ value: Double) -> String {
    let magnitude = abs(value)
    return fixed(value, decimals: magnitude >= 99.95 ? 0 : magnitude >= 9.995 ? 1 : magnitude >= 0.9995 ? 2 : 3)
  }

  /// A number in decimal notation.
  public static func fixed(_ value: Double, decimals: Int) -> String {
    guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
    var scale = 1.0
    for _ in 0..<decimals { scale *= 10 }
    let units = Int((abs(value) * scale).rounded())
    let text = String(units)
    let padded = String(repeating: "0", count: max(decimals + 1 - text.count, 0)) + text
    let sign = value < 0 && units > 0 ? "-" : ""
    guard decimals > 0 else { return sign + padded }
    return sign + padded.dropLast(decimals) + "." + padded.suffix(decimals)
  }

  /// A small number in scientific notation: "3.1e-06".
  public static func scientific(_ value: Double) -> String {
    guard value.isFinite else { return "\(value)" }
    guard value != 0 else { return "0" }
    var mantissa = abs(value)
    var exponent = 0
    while mantissa >= 9.95 { (mantissa, exponent) = (mantissa / 10, exponent + 1) }
    while mantissa < 0.995 { (mantissa, exponent) = (mantissa * 10, exponent - 1) }
    let power = String(abs(exponent))
    return (value < 0 ? "-" : "") + fixed(mantissa, decimals: 1) + "e" + (exponent < 0 ? "-" : "+")
      + (power.count < 2 ? "0" : "") + power
  }

  private static func scaled(_ value: Double, units: [String]) -> String {
    var value = value
    var unit = 0
    while value >= 999.5, unit + 1 < units.count { (value, unit) = (value / 1000, unit + 1) }
    return (unit == 0 ? fixed(value, decimals: 0) : digits(value)) + " " + units[unit]
  }
}
