import Driver
import Testing

@Suite struct TextTests {
  @Test func tableAlignsColumnsAndEndsLinesWithoutSpaces() {
    var table = TextTable([("tensor", .left), ("max", .right), ("", .left)])
    table.add(["embeddings", "3.1e-07", "pass"])
    table.add(["a", "0"])
    #expect(
      table.lines == [
        "tensor          max",
        "embeddings  3.1e-07  pass",
        "a                 0",
      ])
  }

  @Test func tableWithoutTitlesHasNoTitleLine() {
    var table = TextTable([("", .left), ("", .right)])
    table.add(["rows", "12"])
    #expect(table.lines == ["rows  12"])
  }

  @Test(arguments: [
    (0.0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (61_234_567, "61.2 MB"), (2.5e12, "2.50 TB"), (3e15, "3000 TB"),
    (999_499, "999 kB"), (999_600, "1.00 MB"),
  ])
  func bytes(count: Double, text: String) { #expect(Quantity.bytes(count) == text) }

  @Test(arguments: [(8.2e-6, "8.20 us"), (1.84e-3, "1.84 ms"), (3.14, "3.14 s"), (75.0, "75.0 s"), (2e-9, "2 ns")])
  func seconds(value: Double, text: String) { #expect(Quantity.seconds(value) == text) }

  @Test(arguments: [
    (3.1e-6, "3.1e-06"), (0, "0"), (1, "1.0e+00"), (-2.5e12, "-2.5e+12"), (9.96e-5, "1.0e-04"), (1e-101, "1.0e-101"),
    (.infinity, "inf"), (.nan, "nan"),
  ])
  func scientific(value: Double, text: String) { #expect(Quantity.scientific(value) == text) }

  @Test(arguments: [(0.0499, 1, "0.0"), (-0.04, 1, "0.0"), (-1.25, 1, "-1.3"), (12.345, 2, "12.35"), (7, 0, "7")])
  func fixed(value: Double, decimals: Int, text: String) {
    #expect(Quantity.fixed(value, decimals: decimals) == text)
  }
}
