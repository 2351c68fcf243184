import Foundation

/// Makes `count` pieces by several threads, and takes them one after the other in order: at no time are there more pieces
/// than threads. The first error, by order, ends it and is thrown.
///
/// - Parameters:
///   - make: gives the piece of a number; called by several threads at once.
///   - take: called for one piece at a time, by any thread.
func inOrder<Piece>(
  _ count: Int, threads: Int, make: @escaping @Sendable (Int) throws -> Piece, take: (Piece) throws -> Void
) throws {
  guard threads > 1, count > 1 else {
    for number in 0..<count { try take(make(number)) }
    return
  }
  let turns = Turns()
  // Only one thread at a time has its turn; the call ends after the last one.
  try withoutActuallyEscaping(take) { take in
    nonisolated(unsafe) let take = take
    DispatchQueue.concurrentPerform(iterations: min(threads, count)) { _ in
      while let number = turns.next(below: count) {
        let piece = Result { try make(number) }
        turns.take(number) { try take(piece.get()) }
      }
    }
  }
  if let failure = turns.failure { throw failure }
}

/// Who is to make which piece, and whose piece is taken now.
private final class Turns: @unchecked Sendable {
  // Sendable: everything is read and written under the lock.
  private let condition = NSCondition()
  private var made = 0
  private var taken = 0
  private var error: (any Error)?

  var failure: (any Error)? { condition.withLock { error } }

  /// The piece to make next; nil where all are made, or one failed.
  func next(below count: Int) -> Int? {
    condition.withLock {
      guard made < count, error == nil else { return nil }
      made += 1
      return made - 1
    }
  }

  /// Waits until all pieces before this one are taken, then takes it, unless one of them failed.
  func take(_ number: Int, _ body: () throws -> Void) {
    let goesOn = condition.withLock {
      while taken != number { condition.wait() }
      return error == nil
    }
    var failure: (any Error)?
    if goesOn {
      do { try body() } catch { failure = error }
    }
    condition.withLock {
      if let failure { error = failure }
      taken += 1
      condition.broadcast()
    }
  }
}
