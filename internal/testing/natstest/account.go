package natstest

import (
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// account is the account of a server with Options.Credentials, and the operator that vouches for it.
type account struct {
	operator nkeys.KeyPair
	key      nkeys.KeyPair
	claims   *jwt.AccountClaims
	system   string // the account of the server itself
	resolver *server.MemAccResolver
	admin    Credentials
}

// Credentials are what a file of credentials holds.
type Credentials struct {
	File []byte
	user string // its public key
}

func newAccount() (_ *account, err error) {
	a := &account{resolver: &server.MemAccResolver{}}
	if a.operator, err = nkeys.CreateOperator(); err != nil {
		return nil, err
	}
	system, err := nkeys.CreateAccount()
	if err != nil {
		return nil, err
	}
	if a.system, err = system.PublicKey(); err != nil {
		return nil, err
	}
	if err := a.store(jwt.NewAccountClaims(a.system)); err != nil {
		return nil, err
	}
	if a.key, err = nkeys.CreateAccount(); err != nil {
		return nil, err
	}
	public, err := a.key.PublicKey()
	if err != nil {
		return nil, err
	}
	a.claims = jwt.NewAccountClaims(public)
	a.claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: jwt.NoLimit, MemoryStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit}
	if err := a.store(a.claims); err != nil {
		return nil, err
	}
	a.admin, err = a.newUser()
	return a, err
}

func (a *account) store(claims *jwt.AccountClaims) error {
	signed, err := claims.Encode(a.operator)
	if err != nil {
		return err
	}
	return a.resolver.Store(claims.Subject, signed)
}

func (a *account) newUser() (c Credentials, err error) {
	user, err := nkeys.CreateUser()
	if err != nil {
		return c, err
	}
	if c.user, err = user.PublicKey(); err != nil {
		return c, err
	}
	signed, err := jwt.NewUserClaims(c.user).Encode(a.key)
	if err != nil {
		return c, err
	}
	seed, err := user.Seed()
	if err != nil {
		return c, err
	}
	c.File, err = jwt.FormatUserConfig(signed, seed)
	return c, err
}

// trust has a server believe the account's operator. A nil account changes nothing.
func (a *account) trust(o *server.Options) error {
	if a == nil {
		return nil
	}
	public, err := a.operator.PublicKey()
	if err != nil {
		return err
	}
	o.TrustedOperators = []*jwt.OperatorClaims{jwt.NewOperatorClaims(public)}
	o.AccountResolver, o.SystemAccount = a.resolver, a.system
	return nil
}

func (a *account) login() nats.Option { return nats.UserCredentialBytes(a.admin.File) }

// NewCredentials are those of a user who may do anything, on a server with Options.Credentials.
func (s *Server) NewCredentials(t testing.TB) Credentials {
	t.Helper()
	c, err := s.account.newUser()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Revoke ends what is connected with these credentials, and lets nobody connect with them again.
func (s *Server) Revoke(t testing.TB, c Credentials) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account.claims.Revoke(c.user)
	if err := s.account.store(s.account.claims); err != nil {
		t.Fatal(err)
	}
	if s.server == nil {
		return
	}
	known, err := s.server.LookupAccount(s.account.claims.Subject)
	if err != nil {
		t.Fatal(err)
	}
	s.server.UpdateAccountClaims(known, s.account.claims)
}
