"""The network of the tests of attacks, and its accuracy."""

from jaxnn import Classifier, mlp, serial
from jaxnn.layers import standardize
from jaxnn.train import predict

NET = serial(standardize(0.4, 0.2), mlp([16, 12, 3]))


def model(params, state):
    return Classifier(NET, params, state)


def fooled(params, state, x, y):
    return predict(NET, params, state, x).argmax(-1) != y
