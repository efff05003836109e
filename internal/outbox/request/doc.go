// Package request is a request without its table: the states, the event that it came by, what a lookup
// may find, and the Policy, which decides where an outcome or a finding leads. Everything here is pure:
// no statement, no call, no clock. What is decided here is stored once, by who asked.
//
// A new outcome of Flex gets its move in Policy.After. A new state gets its place in States, in the picture
// of package outbox, and in the constraints of migrations/0001_outbox.sql.
package request
