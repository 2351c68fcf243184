import TensorIR
import TileIR

/// Lets workspace buffers share memory where they are never alive at once, or where one takes another's place row by row
/// (`Program.canShareMemory`): the pass `plan-memory`.
///
/// Exact. The largest buffers choose first, each the smallest slot that is free whenever it is alive, whatever the shapes
/// of the others there: a slot has the bytes of its largest buffer. Which buffer is larger depends on the batch; here
/// it is judged on one long sequence.
public func planMemory(_ program: inout Program) {
  let lifetimes = program.workspaceLifetimes
  let buffers = program.slots.flatMap(\.buffers).map { ($0, program.byteCount(of: $0, forOneSequenceOf: 1024)) }
  let order = buffers.sorted { ($1.1, $0.0.index) < ($0.1, $1.0.index) }
  var slots: [[BufferID]] = []
  for (id, _) in order {
    // Slots come in descending size, so the last one that is free fits best.
    let free = slots.lastIndex { $0.allSatisfy { program.canShareMemory($0, id, lifetimes) } }
    if let free { slots[free].append(id) } else { slots.append([id]) }
  }
  // Numbered as buffers are.
  let numbered = slots.sorted { ($0.map(\.index).min() ?? 0) < ($1.map(\.index).min() ?? 0) }
  for (slot, members) in numbered.enumerated() {
    for id in members { program[id].home = .workspace(slot: slot) }
  }
}
