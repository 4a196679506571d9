package addons

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"testing"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// asked is what a kubelet asks for.
type asked struct {
	user   string
	groups []string
	signer string
	usages []certificates.KeyUsage
	x509.CertificateRequest
	raw []byte // in place of the request
}

// right is what the kubelet of w-1 asks for.
func right() asked {
	return asked{
		user:   "system:node:w-1",
		groups: []string{"system:nodes", "system:authenticated"},
		signer: certificates.KubeletServingSignerName,
		usages: []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageServerAuth},
		CertificateRequest: x509.CertificateRequest{
			Subject:     pkix.Name{CommonName: "system:node:w-1", Organization: []string{"system:nodes"}},
			DNSNames:    []string{"w-1"},
			IPAddresses: []net.IP{net.ParseIP("10.1.0.21"), net.ParseIP("fd00::21")},
		},
	}
}

func (a asked) object(t *testing.T, name string) *certificates.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &a.CertificateRequest, key)
	if err != nil {
		t.Fatal(err)
	}
	raw := a.raw
	if raw == nil {
		raw = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	}
	return &certificates.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificates.CertificateSigningRequestSpec{
			Request: raw, SignerName: a.signer, Usages: a.usages, Username: a.user, Groups: a.groups,
		},
	}
}

func node() *core.Node {
	return &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "w-1"}, Status: core.NodeStatus{Addresses: []core.NodeAddress{
		{Type: core.NodeHostName, Address: "w-1"},
		{Type: core.NodeInternalIP, Address: "10.1.0.21"},
		{Type: core.NodeInternalIP, Address: "fd00::21"},
	}}}
}

func TestServingRequestFault(t *testing.T) {
	if err := servingRequestFault(right().object(t, "csr"), node()); err != nil {
		t.Errorf("a right request is refused: %v", err)
	}
	for name, c := range map[string]struct {
		change func(*asked)
		want   string
	}{
		"another node":        {func(a *asked) { a.user = "system:node:w-2" }, "is not node w-1"},
		"not in system:nodes": {func(a *asked) { a.groups = []string{"system:authenticated"} }, "is not node w-1"},
		"client usage":        {func(a *asked) { a.usages = append(a.usages, certificates.UsageClientAuth) }, "client auth"},
		"no server usage":     {func(a *asked) { a.usages = a.usages[:1] }, "server auth"},
		"other common name":   {func(a *asked) { a.Subject.CommonName = "system:node:cp-1" }, "subject"},
		"other organization":  {func(a *asked) { a.Subject.Organization = []string{"system:masters"} }, "subject"},
		"two organizations": {func(a *asked) {
			a.Subject.Organization = []string{"system:nodes", "system:masters"}
		}, "subject"},
		"foreign name":    {func(a *asked) { a.DNSNames = append(a.DNSNames, "kubernetes.default") }, "kubernetes.default is not a name"},
		"foreign address": {func(a *asked) { a.IPAddresses = append(a.IPAddresses, net.IPv4(10, 96, 0, 1)) }, "10.96.0.1 is not an address"},
		"no address":      {func(a *asked) { a.DNSNames, a.IPAddresses = nil, nil }, "no address"},
		"mail address":    {func(a *asked) { a.EmailAddresses = []string{"a@b"} }, "mail"},
		"URI":             {func(a *asked) { a.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }, "URIs"},
		"not PEM":         {func(a *asked) { a.raw = []byte("hello") }, "PEM"},
		"not a request": {func(a *asked) {
			a.raw = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1}})
		}, "cannot read"},
	} {
		t.Run(name, func(t *testing.T) {
			a := right()
			c.change(&a)
			err := servingRequestFault(a.object(t, "csr"), node())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestSignatureIsChecked(t *testing.T) {
	request := right().object(t, "csr")
	block, _ := pem.Decode(request.Spec.Request)
	block.Bytes[len(block.Bytes)-1] ^= 1
	request.Spec.Request = pem.EncodeToMemory(block)
	if err := servingRequestFault(request, node()); err == nil {
		t.Error("a request with a wrong signature is right")
	}
}

func TestApproveAllApprovesOnlyWhatIsRight(t *testing.T) {
	foreign, other, user := right(), right(), right()
	foreign.DNSNames = []string{"cp-1"}
	other.signer = certificates.KubeAPIServerClientKubeletSignerName
	user.user = "alice"
	denied := right().object(t, "denied")
	denied.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: certificates.CertificateDenied}}
	client := fake.NewClientset(node(), denied, right().object(t, "right"), foreign.object(t, "foreign"),
		other.object(t, "other"), user.object(t, "user"))
	left, err := approveAll(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 2 || !strings.Contains(left["foreign"], "cp-1") || !strings.Contains(left["user"], "alice") {
		t.Errorf("left alone: %v", left)
	}
	all, err := client.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range all.Items {
		approved := false
		for _, c := range request.Status.Conditions {
			approved = approved || c.Type == certificates.CertificateApproved
		}
		if approved != (request.Name == "right") {
			t.Errorf("%s: approved is %v", request.Name, approved)
		}
	}
}
