package addons

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// look is how often certificate requests are looked at. A watch would save little: a cluster has few of them.
const look = 5 * time.Second

// approveForever approves kubelets' requests for serving certificates until ctx ends. kube-controller-manager approves
// client certificates by itself, but never these: it can't know which addresses are a node's.
func approveForever(ctx context.Context, client kubernetes.Interface) {
	told := map[string]string{}
	for ctx.Err() == nil {
		pass, cancel := context.WithTimeout(ctx, 30*time.Second)
		left, err := approveAll(pass, client)
		cancel()
		if err != nil {
			klog.V(2).ErrorS(err, "Cannot look at certificate requests yet")
		} else {
			tellNew(told, left)
			told = left
		}
		sleep(ctx, look)
	}
}

// tellNew logs why a request is left alone, once for each reason.
func tellNew(told, left map[string]string) {
	for name, why := range left {
		if told[name] != why {
			klog.InfoS("Not approving a serving certificate", "request", name, "reason", why)
		}
	}
}

// approveAll looks once at every open request, and says why the others are left alone: name of the request -> reason.
// They are not denied: a node's addresses may come later, and a request ends by itself after an hour.
func approveAll(ctx context.Context, client kubernetes.Interface) (map[string]string, error) {
	requests, err := client.CertificatesV1().CertificateSigningRequests().List(ctx,
		metav1.ListOptions{FieldSelector: "spec.signerName=" + certificates.KubeletServingSignerName})
	if err != nil {
		return nil, fmt.Errorf("cannot list certificate requests: %w", err)
	}
	left := map[string]string{}
	for i := range requests.Items {
		request := &requests.Items[i]
		if len(request.Status.Conditions) > 0 || request.Spec.SignerName != certificates.KubeletServingSignerName {
			continue
		}
		if err := approve(ctx, client, request); err != nil {
			left[request.Name] = err.Error()
		}
	}
	return left, nil
}

func approve(ctx context.Context, client kubernetes.Interface, request *certificates.CertificateSigningRequest) error {
	name, ok := strings.CutPrefix(request.Spec.Username, "system:node:")
	if !ok {
		return fmt.Errorf("%q is not a node", request.Spec.Username)
	}
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("cannot read node %s: %w", name, err)
	}
	if err := servingRequestFault(request, node); err != nil {
		return err
	}
	request.Status.Conditions = append(request.Status.Conditions, certificates.CertificateSigningRequestCondition{
		Type: certificates.CertificateApproved, Status: core.ConditionTrue,
		Reason: "SlipwayNodeAddresses", Message: "every name and address in the request is the node's own",
	})
	_, err = client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, request.Name, request, metav1.UpdateOptions{})
	if errors.IsConflict(err) {
		return nil // the caretaker on another control-plane node was faster, or the next look decides
	}
	if err != nil {
		return fmt.Errorf("cannot approve: %w", err)
	}
	klog.InfoS("Approved a serving certificate", "request", request.Name, "node", name)
	return nil
}

// servingRequestFault says why a request must not be approved, or nil. It holds a request to what the signer
// kubernetes.io/kubelet-serving demands, and every name and address in it to the node's own
// (Kubernetes documentation, "Certificates and Certificate Signing Requests", Kubernetes signers).
func servingRequestFault(request *certificates.CertificateSigningRequest, node *core.Node) error {
	if !slices.Contains(request.Spec.Groups, "system:nodes") || request.Spec.Username != "system:node:"+node.Name {
		return fmt.Errorf("%s is not node %s", request.Spec.Username, node.Name)
	}
	allowed := []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageKeyEncipherment, certificates.UsageServerAuth}
	for _, usage := range request.Spec.Usages {
		if !slices.Contains(allowed, usage) {
			return fmt.Errorf("usage %q is not one of a serving certificate", usage)
		}
	}
	if !slices.Contains(request.Spec.Usages, certificates.UsageServerAuth) {
		return fmt.Errorf("it doesn't ask for usage %q", certificates.UsageServerAuth)
	}
	block, rest := pem.Decode(request.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(strings.TrimSpace(string(rest))) > 0 {
		return fmt.Errorf("the request is not one PEM block")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return fmt.Errorf("cannot read the request: %w", err)
	}
	if err := parsed.CheckSignature(); err != nil {
		return fmt.Errorf("cannot verify the request: %w", err)
	}
	if parsed.Subject.CommonName != request.Spec.Username || !slices.Equal(parsed.Subject.Organization, []string{"system:nodes"}) {
		return fmt.Errorf("its subject is %s", parsed.Subject)
	}
	return namesFault(parsed, node)
}

func namesFault(parsed *x509.CertificateRequest, node *core.Node) error {
	if len(parsed.EmailAddresses)+len(parsed.URIs) > 0 {
		return fmt.Errorf("it names mail addresses or URIs")
	}
	if len(parsed.DNSNames)+len(parsed.IPAddresses) == 0 {
		return fmt.Errorf("it names no address")
	}
	own := map[string]bool{}
	for _, a := range node.Status.Addresses {
		own[a.Address] = true
	}
	for _, name := range parsed.DNSNames {
		if !own[name] {
			return fmt.Errorf("%s is not a name of node %s", name, node.Name)
		}
	}
	for _, address := range parsed.IPAddresses {
		if !own[address.String()] {
			return fmt.Errorf("%s is not an address of node %s", address, node.Name)
		}
	}
	return nil
}
