package flex

import (
	"encoding/base64"
	"net/url"
)

// login is a pair of credentials and what follows from it.
type login struct {
	user, password string
	header         []string // of Authorization
	secrets        [][]byte
}

// login asks for the credentials. What follows from them is worked out again only
// when they are others than before.
func (c *Client) login() *login {
	user, password := c.credentials()
	if l := c.latest.Load(); l != nil && l.user == user && l.password == password {
		return l
	}
	l := &login{user: user, password: password, header: []string{"Basic " + basic(user, password)}, secrets: secretsOf(user, password)}
	c.latest.Store(l)
	return l
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

// secretsOf are the forms in which a password could come back to us. What is
// shorter than six characters hides nothing, and would blot out half of a message.
func secretsOf(user, password string) [][]byte {
	if len(password) < 6 {
		return nil
	}
	return [][]byte{[]byte(basic(user, password)), []byte(password), []byte(url.QueryEscape(password))}
}
