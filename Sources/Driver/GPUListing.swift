import Codegen
import Foundation
import TensorIR
import TileIR

/// What stands before the text of a program's kernels: its buffers and how its kernels are launched, a line of JSON each.
struct GPUListing {
  let program: Program
  let launches: [GPULaunch]
  /// What comments of the text begin with.
  let comment: String

  /// Comments, each with a line of JSON behind the word `entry`, `buffer` or `launch`.
  var header: String {
    var lines = ["\(comment) entry " + json(["name": program.name])]
    for buffer in program.buffers {
      lines.append(
        "\(comment) buffer "
          + json([
            "name": buffer.name, "element": buffer.element.rawValue, "rows": rows(buffer.rows),
            "columns": buffer.columns, "home": home(buffer.home),
          ]))
    }
    for launch in launches {
      let kernel = program.kernels[launch.kernel]
      var fields: [String: Any] = [
        "symbol": launch.symbol, "computes": kernel.summary, "threads": launch.threads, "shared": launch.sharedBytes,
        "rows": launch.rows, "cluster": launch.cluster, "columns": launch.columnParts,
        "pieces": launch.pieces(of: kernel), "parts": kernel.domain.parts,
        "parameters": launch.parameters.map { parameter in
          switch parameter {
          case .buffer(let id): "buffer \(program[id].name)"
          case .extent(let name): "extent \(name)"
          case .scalar(let id): "scalar \(program.scalars[id.index].name)"
          case .counter: "counter"
          }
        },
      ]
      switch kernel.domain {
      case .rows(let dimension, let block, _): (fields["over"], fields["block"]) = (dimension.description, block)
      case .sequences(_, _, let table, let block, _):
        (fields["table"], fields["block"]) = (program[table].name, block.most)
      }
      lines.append("\(comment) launch " + json(fields))
    }
    return lines.joined(separator: "\n") + "\n"
  }

  private func rows(_ extent: Extent) -> String {
    extent.plus == 0 ? extent.dimension.description : "\(extent.dimension) + \(extent.plus)"
  }

  private func home(_ home: Buffer.Home) -> String {
    switch home {
    case .input(let index): "input \(index)"
    case .output(let index): "output \(index)"
    case .weight(let name, let packing): "weight \(packing.name): \(name)"
    case .table: "table"
    case .workspace(let slot): "workspace \(slot)"
    }
  }

  private func json(_ fields: [String: Any]) -> String {
    let data =
      (try? JSONSerialization.data(withJSONObject: fields, options: [.sortedKeys, .withoutEscapingSlashes])) ?? Data()
    return String(decoding: data, as: UTF8.self)
  }
}
