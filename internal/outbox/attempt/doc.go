/*
Package attempt is what a lease allows and what becomes of it. A Lease is the right to make one attempt. A Record says
what became of that attempt, or that none was made. The Completer stores records.

	lease.go     Lease, and whether a call may still begin under it (Covers)
	decide.go    Decide, Unsent: from lease and outcome to the Record. Pure; where an outcome leads is request.Policy's
	complete.go  Complete: a record is tried until it is stored, or given up; whether a try whose answer was lost stands
	record.go    the write: all records that wait, in one statement, with their histories
	owners.go    finds out whether an interaction is another request's already, where the answer that names it proves nothing

Who leases, and who makes the call, is package outbox. A write of records waits no longer than database.Patience for a row
that somebody else holds. Then the others are stored without that record, and it is tried again (database.ErrLocked). A record whose lease no longer stands
is kept in the history, and changes nothing (ErrLeaseLost).
*/
package attempt
