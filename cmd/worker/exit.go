package main

import (
	"context"
	"errors"
	"io/fs"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
)

// The exit statuses, by which a script or a pager can tell what happened.
const (
	exitNo    = 1 // the answer is no: not balanced, not found, nothing changed
	exitUsage = 2 // the command line, or the settings, are at fault
	exitAway  = 3 // a server does not answer
)

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
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &ran), errors.As(err, &fault), errors.Is(err, fs.ErrNotExist), // a file that was named
		errors.Is(err, nats.ErrAuthorization):
		return exitUsage
	case away(err):
		return exitAway
	default:
		return exitNo
	}
}

// away says whether err means that a server could not be asked, rather than what it said.
func away(err error) bool {
	var connect *pgconn.ConnectError
	var said *pgconn.PgError
	var network *net.OpError // net.Error would also be an error of a file
	var name *net.DNSError
	switch {
	case errors.As(err, &connect), errors.As(err, &network), errors.As(err, &name):
		return true
	case errors.As(err, &said): // class 08: connection, 57P: shut down or starting
		return len(said.Code) == 5 && (said.Code[:2] == "08" || said.Code[:3] == "57P")
	default:
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) ||
			errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, net.ErrClosed)
	}
}
