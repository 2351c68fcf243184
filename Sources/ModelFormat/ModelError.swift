/// Why a model, a checkpoint or a tensor file cannot be used: where the fault is, what was found, what was expected.
///
/// Its description reads `file:line: place: message; hint`, for example
/// `model.json:41: layers[3].mask.window: expected a positive integer, found "256"`.
public struct ModelError: Error, Hashable, Sendable, CustomStringConvertible {
  /// What a caller may want to tell apart.
  public enum Kind: String, Hashable, Sendable, CaseIterable {
    /// A file cannot be opened, read or written.
    case inaccessible
    /// Bytes that do not follow their format.
    case malformed
    /// A key that means nothing here.
    case unknownKey
    /// A key that must be there and is not.
    case missingKey
    /// A value of the wrong kind or out of range, or one that contradicts another.
    case unexpectedValue
    /// A tensor that the model needs and the checkpoint lacks.
    case missingTensor
    /// A tensor of the wrong shape or element type.
    case unexpectedTensor
  }

  /// The kind of fault.
  public var kind: Kind
  /// The file as the caller named it.
  public var file: String
  /// Counted from 1; nil in binary files.
  public var line: Int?
  /// The key path in JSON, or the tensor; empty for the file as a whole.
  public var place: String
  /// What was found and what was expected.
  public var message: String
  /// The way out, where one is known.
  public var hint: String?

  /// A fault at a place in a file.
  public init(
    _ kind: Kind, file: String, line: Int? = nil, place: String = "", _ message: String, hint: String? = nil
  ) {
    self.kind = kind
    self.file = file
    self.line = line
    self.place = place
    self.message = message
    self.hint = hint
  }

  /// `file:line: place: message; hint`, with what is known of it.
  public var description: String {
    var text = file
    if let line { text += ":\(line)" }
    if !place.isEmpty { text += ": \(place)" }
    text += ": \(message)"
    if let hint { text += "; \(hint)" }
    return text
  }
}

/// The name of `candidates` that is nearest to `name` by edit distance, where it is near enough to be a slip of the
/// pen: at most two edits, or a third of the longer name. The first of equals wins.
func nearest(to name: String, in candidates: some Sequence<String>) -> String? {
  var best: (name: String, distance: Int)?
  for candidate in candidates {
    let allowed = max(2, max(name.count, candidate.count) / 3)
    let distance = editDistance(name, candidate)
    if distance <= allowed && distance < min(name.count, candidate.count), distance < best?.distance ?? .max {
      best = (candidate, distance)
    }
  }
  return best?.name
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one string into the other.
func editDistance(_ left: String, _ right: String) -> Int {
  let left = Array(left.unicodeScalars.prefix(256))
  let right = Array(right.unicodeScalars.prefix(256))
  var beforePrevious: [Int] = []
  var previous = Array(0...right.count)
  for i in 0..<left.count {
    var current = [i + 1]
    for j in 0..<right.count {
      var distance = min(previous[j + 1] + 1, current[j] + 1, previous[j] + (left[i] == right[j] ? 0 : 1))
      if i > 0, j > 0, left[i] == right[j - 1], left[i - 1] == right[j] {
        distance = min(distance, beforePrevious[j - 1] + 1)
      }
      current.append(distance)
    }
    beforePrevious = previous
    previous = current
  }
  return previous[right.count]
}

/// `"name"`, with control characters and quotes escaped and long text cut, for messages.
func quoted(_ text: some StringProtocol, limit: Int = 80) -> String {
  var result = "\""
  for (index, scalar) in text.unicodeScalars.enumerated() {
    if index == limit {
      result += "..."
      break
    }
    switch scalar {
    case "\"", "\\": result += "\\\(scalar)"
    case "\n": result += "\\n"
    case "\t": result += "\\t"
    case _ where scalar.value < 0x20 || scalar.value == 0x7F: result += "\\u{\(String(scalar.value, radix: 16))}"
    default: result.unicodeScalars.append(scalar)
    }
  }
  return result + "\""
}

/// `a, b or c`.
func alternatives(_ names: some Sequence<String>) -> String {
  let names = Array(names)
  guard names.count > 1 else { return names.first ?? "nothing" }
  return names.dropLast().joined(separator: ", ") + " or " + names[names.count - 1]
}
