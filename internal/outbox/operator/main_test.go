package operator

import (
	"os"
	"testing"

	"flexworker/internal/testing/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }
