/// A table in plain text whose columns line up, for reports on a terminal.
public struct TextTable: Sendable {
  /// On which side a column's cells line up.
  public enum Alignment: Sendable {
    case left
    /// For numbers.
    case right
  }

  private var rows: [[String]] = []
  private let alignments: [Alignment]

  /// A table with a title for each column; a column without a title has an empty one.
  public init(_ columns: [(title: String, alignment: Alignment)]) {
    alignments = columns.map(\.alignment)
    if columns.contains(where: { !$0.title.isEmpty }) { rows.append(columns.map(\.title)) }
  }

  /// Adds a row; cells that are missing at its end are empty.
  public mutating func add(_ cells: [String]) {
    rows.append(cells + [String](repeating: "", count: max(alignments.count - cells.count, 0)))
  }

  /// The lines of the table, two spaces between columns, nothing at the end of a line.
  public var lines: [String] {
    let widths = alignments.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
    return rows.map { row in
      let cells = alignments.indices.map { column in
        let padding = String(repeating: " ", count: widths[column] - row[column].count)
        return alignments[column] == .left ? row[column] + padding : padding + row[column]
      }
      let line = cells.joined(separator: "  ")
      return String(line.prefix(line.count - line.reversed().prefix { $0 == " " }.count))
    }
  }
}
