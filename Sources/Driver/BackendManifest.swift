import Artifact
import Codegen
import TensorIR
import TileIR

// What the artifact says of itself.
extension Backend {
  /// The manifest of programs, each of which has the name of a function of the module.
  func manifest(for programs: [Program], of module: Module, gpu: GPUPart = GPUPart()) throws -> Manifest {
    var names = ManifestDimensions()
    let entries = try programs.map { try entry(for: $0, of: module, &names) }
    var manifest = Manifest(compiler: compiler, model: model, dimensions: names.dimensions, entries: entries)
    manifest.passes = passes
    manifest.program = module.text
    manifest.levels = levels.reversed().map { Manifest.Level(name: $0.rawValue, needs: $0.requirement) }
    manifest.weights = WeightLayout(programs + gpu.programs).entries.map { entry in
      let packing = if case .weight(_, let packing) = entry.buffer.home { packing.name } else { "table" }
      return Manifest.Weight(
        name: entry.name, element: Self.manifestElement(entry.buffer.element),
        shape: [entry.buffer.rows.dimension.extent ?? 1, entry.buffer.columns], offset: entry.offset,
        bytes: entry.byteCount, packing: packing)
    }
    manifest.kernels = programs.flatMap { program in
      program.kernels.map { kernel in
        Manifest.Kernel(
          name: kernel.name, entry: program.name, computes: kernel.summary, domain: kernel.domain.manifestText)
      }
    }
    let images = gpu.images.enumerated().map { index, image in
      let resources = gpu.resources[index]
      let kernels = zip(image.programs, image.launches).flatMap { program, launches in
        launches.map { launch in
          Manifest.GPU.Kernel(
            name: launch.symbol, entry: program.name, computes: program.kernels[launch.kernel].summary,
            rows: launch.rows,
            threads: launch.threads, sharedBytes: launch.sharedBytes, registers: resources[launch.symbol]?.registers,
            spilledBytes: resources[launch.symbol]?.spilledBytes)
        }
      }
      return Manifest.GPU(
        target: image.target.rawValue, ptxBytes: image.ptx.isEmpty ? nil : image.ptx.count,
        codeBytes: image.code?.count, kernels: kernels)
    }
    manifest.gpus = images.isEmpty ? nil : images
    return manifest
  }

  private func entry(
    for program: Program, of module: Module, _ names: inout ManifestDimensions
  ) throws -> Manifest.Entry {
    guard let function = module.function(named: program.name) else {
      throw DriverError("no function is called @\(program.name)")
    }
    let renamed = names.add(program)
    func portType(_ type: ValueType) -> Manifest.PortType {
      func extent(_ dimension: Dimension) -> Manifest.Extent {
        switch dimension {
        case .fixed(let count): .fixed(count)
        case .symbol(let name): .symbol(renamed[name] ?? name)
        }
      }
      switch type {
      case .offsets(let sequences, let rows): return .offsets(sequences: extent(sequences), rows: extent(rows))
      case .tensor(let tensor):
        return .tensor(element: Self.manifestElement(tensor.element), shape: tensor.shape.map(extent))
      }
    }
    let inputs = function.arguments.map { argument in
      Manifest.Port(
        name: function[argument].name, type: portType(function[argument].type),
        role: function.role(ofArgument: argument), keeps: module.kept(byArgument: argument, of: function),
        window: module.window(ofArgument: argument, of: function))
    }
    let outputs = function.results.map { result in
      Manifest.Port(name: result.name, type: portType(function[result.value].type))
    }
    return Manifest.Entry(name: program.name, dimensions: program.dimensions, inputs: inputs, outputs: outputs)
  }

  /// Both lists of element types name the same ones; the manifest's is the artifact's own.
  private static func manifestElement(_ element: ElementType) -> Manifest.Element {
    Manifest.Element(rawValue: element.rawValue) ?? .f32
  }
}

/// The dimensions of all entries, each once. Those that a caller gives mean the same in all of them; of those that a call
/// defines, one that means something else in another entry gets that entry's name.
private struct ManifestDimensions {
  private(set) var dimensions: [Manifest.Dimension] = []

  /// Adds a program's, and gives those that are called otherwise in the manifest.
  mutating func add(_ program: Program) -> [String: String] {
    for name in program.dimensions where !dimensions.contains(where: { $0.name == name }) {
      dimensions.append(Manifest.Dimension(name: name))
    }
    var renamed: [String: String] = [:]
    for derived in program.derivedDimensions {
      var dimension = Manifest.Dimension(
        name: derived.name, atMost: program.givenBound(of: derived.name)?.manifestBound,
        atMostOfSequence: program.keptRows(of: derived.name)?.ofSequence)
      if let other = dimensions.first(where: { $0.name == derived.name }), other != dimension {
        dimension.name = "\(program.name).\(derived.name)"
        renamed[derived.name] = dimension.name
      }
      if !dimensions.contains(dimension) { dimensions.append(dimension) }
    }
    return renamed
  }
}

extension Domain {
  /// What blocks cover, for people.
  fileprivate var manifestText: String {
    switch self {
    case .rows(let dimension, let block, let parts):
      "\(dimension), \(block) at a time" + (parts > 1 ? ", \(parts) parts apart" : "")
    case .sequences(_, _, _, let block, let parts):
      "rows of sequences, \(block.text)" + (parts > 1 ? ", \(parts) parts apart" : "")
    }
  }
}
