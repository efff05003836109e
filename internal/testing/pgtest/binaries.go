package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
)

// binaries finds the folder that holds initdb and postgres. The order is: what the user says, what the user's shell would
// take, what packages install outside the shell's path, the newest first.
func binaries() (string, error) {
	if dir := os.Getenv("FLEXWORKER_PG_BIN"); dir != "" {
		if !complete(dir) {
			return "", fmt.Errorf("FLEXWORKER_PG_BIN=%s does not hold initdb and postgres", dir)
		}
		return dir, nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil && complete(filepath.Dir(path)) {
			return filepath.Dir(path), nil
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin",
	} {
		dirs, _ := filepath.Glob(pattern) // the patterns are right
		slices.SortFunc(dirs, func(a, b string) int { return version(b) - version(a) })
		if i := slices.IndexFunc(dirs, complete); i >= 0 {
			return dirs[i], nil
		}
	}
	return "", errors.New("no Postgres server programs (initdb, postgres) on this machine. Install them\n" +
		"  on Debian or Ubuntu, as root:  apt-get update && apt-get install postgresql\n" +
		"  on macOS:                      brew install postgresql@17\n" +
		"or name their folder in FLEXWORKER_PG_BIN, or, for tests, a server to use in TEST_DATABASE_URL")
}

func complete(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// version is the first number in a path: 17 in /opt/homebrew/opt/postgresql@17/bin, 0 without one.
func version(dir string) int {
	n, _ := strconv.Atoi(regexp.MustCompile(`\d+`).FindString(dir))
	return n
}

// identity is whom the server's processes run as: this user, or as root postgres or nobody. They get a process group, so
// that an interrupt typed at a terminal reaches the program that started them and not them.
func identity() (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() != 0 {
		return attr, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
			return attr, nil
		}
	}
	return nil, errors.New("postgres refuses to run as root, and there is no user postgres or nobody to run it as")
}
