// Package gate decides whether calls may be made now. There are two answers, and who gives them:
//
//   - The gate, one row of outbox_gate, is the whole fleet's: its rate, a pause by Flex's 429, a hold by a
//     person. LockSQL and SpendSQL are the parts of a statement that takes tokens of the rate.
//   - The Breaker is this replica's own: it stops one that has no way to Flex or whose credentials are
//     refused, and harms nobody else.
//
// A Registry keeps this worker's row in outbox_replicas and knows the others': their words, their
// settings, the rate that follows from them. Progress tells whether calls succeed at all.
//
// The gate's row is locked before any row of a request, never after. A row that cannot be read is a gate
// that is shut.
package gate
