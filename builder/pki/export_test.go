package pki

import "filippo.io/age"

// Parse is for the fuzz target.
var Parse = parse

// Cheap makes a passphrase's lock one that tests have time for.
func Cheap(l *Lock) { l.recipients[0].(*age.ScryptRecipient).SetWorkFactor(10) }
