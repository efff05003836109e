// Package crashtest kills the worker for real. Its tests build the program with
// the build tag crashpoints, run it as processes against a real Postgres, a real
// NATS and the strict imitation of Flex, and let it die by SIGKILL, or stand
// still by SIGSTOP, between any two durable steps: at each point that
// internal/crash names. What must be true afterwards is the same in every case:
// each request settled once, created once, answered once, and `worker audit`
// finds nothing.
//
// docs/faults.md is the plan that these tests belong to; TestFaultPlan holds it
// against the tree.
package crashtest
