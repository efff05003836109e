// Package lookup finds out what became of an attempt whose outcome is not known.
//
// A Resolver takes Batches of uncertain requests of one workspace, asks TaskRouter's two witnesses, the task
// search and the event log, and stores what request.Policy makes of each finding. Batch.LookUp holds all rules
// of evidence and touches no table; Requests holds the statements. CanaryKeys are keys of tasks that surely
// exist: a search that finds one has understood its question.
//
// A lookup owns no row. It postpones the next one past its own limit; of two that ask at once, the answer of
// the one that was taken last counts; the other is recorded, not obeyed, whichever comes first. A crash costs a repetition. A lookup that fails is
// no answer.
package lookup
