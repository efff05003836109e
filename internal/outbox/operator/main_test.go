package operator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

// TestMain fails the run when a test left a goroutine behind.
func TestMain(m *testing.M) {
	code := m.Run()
	err := pgtest.StopShared()
	if code == 0 {
		err = errors.Join(err, goleak.Find())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func migrate(ctx context.Context, dsn string) error {
	_, err := migrations.Up(ctx, dsn)
	return err
}
