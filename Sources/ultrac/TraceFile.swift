import Driver
import FoundationEssentials
import UltraRuntime

/// A call's kernels and blocks in the JSON that Perfetto and chrome://tracing open (Trace Event Format).
struct TraceFile: Encodable {
  /// A span of time ("X"), or the name of a track ("M").
  struct Event: Encodable {
    var name: String
    var ph: String
    var pid = 1
    /// Track 0 holds kernels, track 1 + n the blocks of worker n.
    var tid: Int
    /// Microseconds.
    var ts: Double?
    var dur: Double?
    var args: [String: String]?
  }

  var traceEvents: [Event]
  var displayTimeUnit = "ns"

  /// `name` gives a kernel's name by its number.
  init(_ record: KernelRecord, name: (Int) -> String) {
    traceEvents = [Event(name: "thread_name", ph: "M", tid: 0, args: ["name": "kernels"])]
    for worker in Set(record.blocks.map(\.worker)).sorted() {
      traceEvents.append(
        Event(name: "thread_name", ph: "M", tid: worker + 1, args: ["name": "worker \(worker)"]))
    }
    if let first = record.kernels.first {
      traceEvents.append(Self.span("setup", track: 0, from: 0, to: first.start))
    }
    for (number, kernel) in record.kernels.enumerated() {
      var span = Self.span(name(number), track: 0, from: kernel.start, to: kernel.end)
      span.args = ["blocks": "\(kernel.blocks)"]
      traceEvents.append(span)
    }
    for block in record.blocks {
      var span = Self.span(name(block.kernel), track: block.worker + 1, from: block.start, to: block.end)
      span.args = ["block": "\(block.index)"]
      traceEvents.append(span)
    }
  }

  private static func span(_ name: String, track: Int, from start: Int, to end: Int) -> Event {
    Event(name: name, ph: "X", tid: track, ts: Double(start) / 1e3, dur: Double(end - start) / 1e3)
  }

  /// The file's bytes; keys are sorted.
  func bytes() throws -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys]
    return [UInt8](try encoder.encode(self))
  }
}
