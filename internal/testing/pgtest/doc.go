// Package pgtest starts a private Postgres on this machine: for tests, the demo, the soak and the benchmarks.
//
//	var migrated = pgtest.NewTemplate(migrations.Up)
//
//	func TestX(t *testing.T) {
//		pool := migrated.NewPool(t, nil)           // a database with our tables, dropped at the end
//		dsn := migrated.NewDSN(t)                  // the same, for whoever connects himself
//		dsn := pgtest.NewDSN(t)                    // an empty database, dropped at the end
//		server := pgtest.NewServer(t)              // a server of its own, which the test may kill
//		standby := pgtest.NewStandby(t, server)    // a synchronous standby of it, which the test may promote
//
// The databases of one test process share one server. It starts at the first use, is never killed and therefore
// runs without fsync, and goes when the process goes. A test that kills, stops or starves Postgres takes NewServer, which
// keeps fsync on, as Start does. The servers of tests keep their data in memory where there is room (dirlock.Memory): it
// outlives their processes, not the machine.
//
// TEST_DATABASE_URL names a server to use in place of the shared one; its user must be allowed to create databases.
//
// # What it promises
//
// Without server binaries it fails and says what to install; it never skips. As root it runs Postgres as user postgres or
// nobody, since initdb and postgres refuse root. Nothing survives the process that called Start, even one killed with
// SIGKILL: a small shell, the keeper, holds the other end of a pipe; when the pipe closes it stops Postgres and removes
// the folder. (Linux could do the first half with a parent death signal, other systems could not, and that signal follows
// a thread and not the process.) A folder that outlived its keeper too is removed at the next start: its lock is free.
package pgtest
