// Package request is a request without its table: the states, the event that it came by, what a lookup
// may find, and the Policy, which decides where an outcome or a finding leads. Everything here is pure: it runs
// no statement, makes no call and reads no clock. columns.go has expressions in SQL, for the statements of others.
// A Move is stored by the caller that asked the Policy for it, in one statement: the Completer or the Resolver.
//
// docs/internals.md, "Where a change begins", lists what a new outcome, finding, state or column needs. An outcome whose
// kind Policy.After does not name is uncertain.
package request
