package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"flexworker/internal/outbox/operator"
)

// The exit statuses, by which a script or a pager can tell what happened.
const (
	exitNo    = 1 // the answer is no: not balanced, not found, nothing changed
	exitUsage = 2 // the command line, or the settings, are at fault
	exitAway  = 3 // a server does not answer, or did not do what it was asked
)

// noError is an answer: the command did what it was asked, and the answer is no.
type noError struct{ error }

func (e noError) Unwrap() error { return e.error }

// no marks an error as an answer, with the words of fmt.Errorf. What is not marked so never
// has its exit status: a pager must not take a database that is away for a no.
func no(format string, args ...any) error { return noError{fmt.Errorf(format, args...)} }

// leftOutError says that rows were left out of an act, since another session held them locked.
type leftOutError struct{ error }

func (e leftOutError) Unwrap() error { return operator.ErrLeftOut }

// usageError is a fault of the command line or of the settings.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usage marks an error as a fault of the command line or of the settings; nil stays nil.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// ranError is what a command itself has returned: without it the command line was refused
// before any command ran.
type ranError struct{ error }

func (e ranError) Unwrap() error { return e.error }

// markRun has every command below cmd, and cmd itself, say that it ran.
func markRun(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if err := run(cmd, args); err != nil {
				return ranError{err}
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		markRun(c)
	}
}

// exitStatus is the status of a process that ends with err.
func exitStatus(err error) int {
	var ran ranError
	var fault usageError
	var answer noError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &ran), errors.As(err, &fault), refused(err):
		return exitUsage
	case errors.Is(err, operator.ErrLeftOut): // whatever else is a no: run again it may be a yes
		return exitAway
	case errors.As(err, &answer), errors.Is(err, operator.ErrRefused):
		return exitNo
	default:
		return exitAway
	}
}

// refused says whether err means that a right is missing: a user or password that
// Postgres or NATS does not take, a grant, or a file of the settings that cannot be read.
func refused(err error) bool {
	var said *pgconn.PgError
	if errors.As(err, &said) { // class 28: authorization; 42501: a grant. https://www.postgresql.org/docs/17/errcodes-appendix.html
		return strings.HasPrefix(said.Code, "28") || said.Code == "42501"
	}
	var socket *net.OpError // of a Unix socket that is not there: the server is away
	if errors.As(err, &socket) {
		return false
	}
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) ||
		errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrPermissionViolation)
}
