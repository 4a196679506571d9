package release

import (
	"os"
	"testing"

	"github.com/slipway-os/slipway/images/checksums"
)

// TestNodesVerifyWhatSignWrites: a node's reader, which is a smaller one, takes both kinds of signature with the keys that bake pins, and
// neither with others.
func TestNodesVerifyWhatSignWrites(t *testing.T) {
	dir := t.TempDir()
	putProven(t, dir, "x")
	minisign, trust := newKey(t)
	cosign, cosignTrust := newSigstoreKey(t)
	if _, err := Sign(dir, "", Signers{&minisign, &cosign}); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	own, err := ReadOwn(t.Context(), Folder(root), "1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	_, otherTrust := newKey(t)
	for _, c := range []struct {
		name  string
		trust *Trust
		good  bool
	}{{"minisign", trust, true}, {"Sigstore", cosignTrust, true}, {"another", otherTrust, false}} {
		pinned, err := checksums.Keys{}.Add(get(t, c.trust.Keys[0].File))
		if err != nil {
			t.Fatal(err)
		}
		sums, key, err := pinned.Verify("1.0.0", checksums.Signed(own))
		if c.good && (err != nil || key.ID != c.trust.Keys[0].ID || sums[base+".json"] != digest(get(t, dir+"/"+base+".json"))) || !c.good && err == nil {
			t.Errorf("%s: %v %v %v", c.name, sums, key.ID, err)
		}
	}
}
